"""Exact cross-validation: all folds and all parameters from a few shared passes over the data.

`driver/` runs on the driver and decides; `worker/` runs in Spark's Python workers and adds up; `task.py` is the Spark task around a worker.
A pass is one request to all workers: the driver names a kernel of `worker/`, each worker runs it on its own rows, and the driver
adds the replies. No kernel looks beyond its own rows, and no file of `worker/` knows Spark.

Letters in shapes: n rows; Q columns of the raw design, p features, D = p + 1 with the label; C cells of rows; M models (fold and grid point);
K rows of coefficients of one model, one or a row a class; L classes or levels, as the docstring says.
"""
