"""What each command does, given the options that recycle/options/ reads."""
