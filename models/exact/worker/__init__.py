"""The workers' side: rows of one partition in memory, and sums over them. NumPy or another array namespace; no Spark."""
