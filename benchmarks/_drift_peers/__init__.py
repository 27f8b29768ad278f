"""What other drift libraries say by default, each run in an environment of its own."""
