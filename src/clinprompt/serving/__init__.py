"""Serving: engines that answer many tasks at once, and the HTTP server in front of them."""
