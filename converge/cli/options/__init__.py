"""What can be typed: the options of each command, a module for each group of commands."""
