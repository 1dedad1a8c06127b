"""Token streams with loss masks: conversations rendered, packed several to a row."""
