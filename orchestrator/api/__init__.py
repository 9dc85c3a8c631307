"""The provider's calls over HTTP. Nothing here retries: a POST that may have been heard is looked up, not repeated."""
