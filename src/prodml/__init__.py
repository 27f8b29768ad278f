"""prodml: typed, embeddable patterns for machine learning in production."""
