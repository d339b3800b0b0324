"""Builders that write stores. They run offline; nothing in emojax imports them."""
