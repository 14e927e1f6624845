"""`benco report`: results as one page of HTML that needs nothing else.

`collect` gathers typed sections from stored rows, logs and manifests; `render` writes them.
"""
