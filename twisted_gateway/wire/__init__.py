"""Bytes to frames and back. Knows nothing of what the frames mean, nor of sockets: everything here is sans-IO."""
