import java.io.FileInputStream;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.util.concurrent.CompletableFuture;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * A mutual TLS 1.3 handshake between two PKCS#12 stores, host name verified:
 * SERVER.p12 SERVER-trust.p12 SERVER.password CLIENT.p12 CLIENT-trust.p12 CLIENT.password
 * Prints "protocol | client as the server sees it | server as the client sees it", or exits with 3.
 */
public class TlsHandshake {
    static KeyStore store(String path, char[] password) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (InputStream in = new FileInputStream(path)) {
            store.load(in, password);
        }
        return store;
    }

    static SSLContext context(String key, String trust, String passwordFile) throws Exception {
        char[] password = Files.readString(Path.of(passwordFile)).toCharArray();
        KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(store(key, password), password);
        TrustManagerFactory trusted = TrustManagerFactory.getInstance("PKIX");
        trusted.init(store(trust, password));
        SSLContext context = SSLContext.getInstance("TLSv1.3");
        context.init(keys.getKeyManagers(), trusted.getTrustManagers(), null);
        return context;
    }

    public static void main(String[] args) throws Exception {
        SSLContext serverSide = context(args[0], args[1], args[2]);
        SSLContext clientSide = context(args[3], args[4], args[5]);
        try (SSLServerSocket listener = (SSLServerSocket) serverSide.getServerSocketFactory()
                .createServerSocket(0, 1, java.net.InetAddress.getLoopbackAddress())) {
            listener.setNeedClientAuth(true);
            listener.setSoTimeout(20000);
            listener.setEnabledProtocols(new String[] {"TLSv1.3"});
            CompletableFuture<String> server = CompletableFuture.supplyAsync(() -> {
                try (SSLSocket socket = (SSLSocket) listener.accept()) {
                    socket.setSoTimeout(20000);
                    String peer = socket.getSession().getPeerPrincipal().getName();
                    socket.getOutputStream().write(7);
                    return peer;
                } catch (Exception error) {
                    throw new RuntimeException(error);
                }
            });
            String protocol;
            String peer;
            try (SSLSocket socket = (SSLSocket) clientSide.getSocketFactory()
                    .createSocket("localhost", listener.getLocalPort())) {
                socket.setSoTimeout(20000);
                SSLParameters parameters = socket.getSSLParameters();
                parameters.setEndpointIdentificationAlgorithm("HTTPS");
                socket.setSSLParameters(parameters);
                socket.startHandshake();
                if (socket.getInputStream().read() != 7) {
                    throw new IllegalStateException("the server closed the connection");
                }
                protocol = socket.getSession().getProtocol();
                peer = socket.getSession().getPeerPrincipal().getName();
            }
            // Only now: the server's close waits for the client's.
            System.out.println(protocol + " | " + server.get() + " | " + peer);
        } catch (Exception error) {
            System.out.println("refused: " + error.getMessage());
            System.exit(3);
        }
    }
}
