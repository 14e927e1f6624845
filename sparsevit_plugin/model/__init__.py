"""The SparseViT model, its weights, and its registration in IMDLBenCo."""
