"""Labels of one's own videos: tables, ELAN's files and Aff-Wild2's form, brought to the frames."""
