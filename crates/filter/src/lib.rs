//! Which packets: filter expressions in libpcap's language.
