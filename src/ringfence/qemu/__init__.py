"""The edge to QEMU: discovery, the QMP session, the human monitor, the guest agent, starting a VM."""
