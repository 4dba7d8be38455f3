"""What operators see over HTTP: metrics and status now; resources and a page later (`operations.md` 3 and 4)."""
