"""The registry read back as a catalogue of team images: nothing here knows more than what was pushed."""
