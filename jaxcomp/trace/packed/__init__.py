"""Parameters held as several arrays, and how sites compute with them."""
