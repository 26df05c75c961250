"""Floor 5: the commands, one file each; importing it costs no engine."""
