"""SparseViT for IMDLBenCo."""
