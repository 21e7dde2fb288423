"""The wire: servicers that convert, delegate and convert back. Nothing here decides anything."""
