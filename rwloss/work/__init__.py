"""Tasks here, in worker processes or on Dask, and calls in a process of their own."""
