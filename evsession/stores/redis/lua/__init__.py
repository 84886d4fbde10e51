"""The scripts, one file each; every file opens with its KEYS, ARGV, returns and cost."""
