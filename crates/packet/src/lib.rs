//! What a packet is and how it is written down: timestamps, interfaces, pcap and pcapng.
