"""PURE: the words the layers share. Nothing here touches the machine or the clock."""
