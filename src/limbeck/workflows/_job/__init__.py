"""What the commands share: a recipe with its data, networks and distillers."""
