"""Quality of review: agreement, aggregation and the creation of gold."""
