"""The synthetic seed domain: shapes and backgrounds drawn by signed distance functions."""
