"""What training minimises: one file an objective."""
