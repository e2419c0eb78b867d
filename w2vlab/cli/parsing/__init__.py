"""From what a user types and YAML files hold to checked options."""
