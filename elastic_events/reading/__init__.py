"""From stored records to answers."""
