/* What libpcap's pcap.c asks of its pcap-dbus.c: there is no D-Bus device, and no name is one. */

void *dbus_create(const char *device, char *errbuf, int *is_ours)
{
	(void)device, (void)errbuf;
	*is_ours = 0;
	return 0;
}

int dbus_findalldevs(void *devlistp, char *errbuf)
{
	(void)devlistp, (void)errbuf;
	return 0;
}
