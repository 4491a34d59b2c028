"""What /proc, /sys and the control groups tell of this node, or of a captured tree, by group."""
