"""How work is carried out: here, in worker processes, or by Dask."""
