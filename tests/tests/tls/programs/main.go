// HTTP/1.1 and HTTP/2 over Go's own TLS.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func text(name string) string {
	length, err := strconv.Atoi(path.Base(name))
	check(err)
	var all strings.Builder
	for number := 0; all.Len() < length; number++ {
		fmt.Fprintf(&all, "%07d.", number)
	}
	return all.String()[:length]
}

func answer(out http.ResponseWriter, request *http.Request) {
	io.Copy(io.Discard, request.Body)
	out.Header().Set("Content-Type", "text/plain")
	if request.Method == "POST" {
		io.WriteString(out, "posted")
	} else {
		io.WriteString(out, text(request.URL.Path))
	}
}

// With a certificate of clients' it asks for one.
func serve(address, port, cert, key, clients string) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	check(err)
	config := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	if clients != "" {
		known, err := os.ReadFile(clients)
		check(err)
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		config.ClientCAs.AppendCertsFromPEM(known)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address, port))
	check(err)
	fmt.Println("ready")
	server := &http.Server{Handler: http.HandlerFunc(answer), TLSConfig: config}
	check(server.ServeTLS(listener, "", ""))
}

// With a certificate it shows that.
func ask(address, port, version, tag, protocol, cert, key string) {
	config := &tls.Config{InsecureSkipVerify: true}
	if version == "1.2" {
		config.MaxVersion = tls.VersionTLS12
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		check(err)
		config.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: protocol == "h2"}
	client := &http.Client{Transport: transport}
	for _, name := range []string{"/text/10", "/post", "/text/100000", "/text/1"} {
		url := "https://" + net.JoinHostPort(address, port) + name + "?" + tag
		var response *http.Response
		var err error
		wanted := "posted"
		if name == "/post" {
			response, err = client.Post(url, "text/plain", strings.NewReader(text("3000")))
		} else {
			wanted = text(name)
			response, err = client.Get(url)
		}
		check(err)
		body, err := io.ReadAll(response.Body)
		check(err)
		if string(body) != wanted || (response.ProtoMajor == 2) != (protocol == "h2") {
			panic(fmt.Sprint(name, response, len(body)))
		}
	}
	transport.CloseIdleConnections()
}

func main() {
	arguments := append(os.Args[1:], "", "", "")
	if arguments[0] == "server" {
		serve(arguments[1], arguments[2], arguments[3], arguments[4], arguments[5])
	} else {
		ask(arguments[1], arguments[2], arguments[3], arguments[4], arguments[5], arguments[6], arguments[7])
	}
}
