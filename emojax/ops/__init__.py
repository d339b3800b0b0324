"""Pure numerical functions: masks, losses, metrics, windows. No IO, no parameters."""
