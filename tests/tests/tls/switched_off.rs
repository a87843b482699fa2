//! What is not to leave the machine.

use kuberewind_tests::judges::tshark;

use crate::lab::{End, Lab, NGINX};

#[test]
fn secrets_stay_on_the_machine_when_told_so() {
    let mut lab = Lab::with(&["--set", "tap.tlsExport=false"]);
    let _nginx = lab.nginx();
    lab.curl((End::Peer, NGINX), "1.3", "hidden", &[]);
    lab.wait_for_secrets();
    for name in ["x.pcap", "x.pcapng"] {
        let dest = lab.files.path(name);
        let done = lab.recorder().pcapdump(&["--dest", &dest.display().to_string()]);
        assert!(done.status.success());
        assert_ne!(tshark(&dest, &["-d", "tcp.port==8443,tls", "-Y", "tls"]), [""; 0]);
        let hidden = ["-d", "tcp.port==8443,tls", "-Y", "http contains \"hidden\""];
        assert_eq!(tshark(&dest, &hidden), [""; 0]);
    }
}
