"""From a layout and its sources to any range of the archive; knows no HTTP server."""
