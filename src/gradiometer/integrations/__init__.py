"""Ways into trainings that are not a loop of one's own, one framework a file."""
