"""emojax: emotion over time from pre-extracted audio, visual, text and pose features."""

__version__ = "0.1.0"
