"""What a multi-GPU launch leaves behind, where to look for it, and what undoes it."""
