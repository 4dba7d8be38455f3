"""Wire dialects: frames to meaning and back. A format imports no other format; they meet in `neutral`.

`row.Format` is what every dialect offers; `parts.FORMATS` holds them by name, for the table of endpoints.
"""
