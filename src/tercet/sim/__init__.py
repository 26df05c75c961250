"""The simulator: the same scheduler and the same routing on a virtual clock."""
