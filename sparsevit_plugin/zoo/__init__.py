"""IMDLBenCo's baselines, made to build without a network and with their defects mended by name."""
