"""Exact cross-validation: all folds and all parameters from a few shared passes over the data.

`driver/` runs on the driver and decides; `worker/` runs in Spark's Python workers and adds up.
A pass is one request to all workers: the driver names a kernel of `worker/`, each worker runs it on its own rows, and the driver
adds the replies. No kernel looks beyond its own rows, and no file of `worker/` knows Spark.
"""
