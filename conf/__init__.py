"""The vocabulary: typed specs and the files that fill them. No Spark, nothing else of ours."""
