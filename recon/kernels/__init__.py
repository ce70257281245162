"""Hot loops behind one dispatcher: compiled or plain-torch."""
