"""`millrace gpu-plan`: what of a pipeline's SQL would run on a GPU by NVIDIA's RAPIDS plugin, told on a machine that has none.

The pipeline runs once, into a folder that is removed afterwards, with the plugin in its explain-only mode: processors do all the work, and
the plugin says of every operator whether a GPU could do it. Spark's own measurements say how long tasks were busy with it.
"""
