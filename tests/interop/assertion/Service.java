import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Map;
import java.util.Objects;

/** A service that takes what the gate has allowed: {@code Service PORT KEYS ISSUER AUDIENCE}. */
public final class Service {
  private static final HttpClient CLIENT = HttpClient.newHttpClient();

  public static void main(String[] arguments) throws IOException {
    URI keys = URI.create(arguments[1]);
    InetSocketAddress address = new InetSocketAddress(InetAddress.getLoopbackAddress(), Integer.parseInt(arguments[0]));
    HttpServer server = HttpServer.create(address, 0);
    server.createContext("/", asked -> answer(asked, keys, arguments[2], arguments[3]));
    server.start();
  }

  private static void answer(HttpExchange asked, URI keys, String issuer, String audience) throws IOException {
    String assertion = Objects.requireNonNullElse(asked.getRequestHeaders().getFirst("x-portcullis-assertion"), "");
    byte[] body = asked.getRequestBody().readAllBytes();
    int status = 200;
    Map<String, String> told;
    try {
      String keySet = CLIENT.send(HttpRequest.newBuilder(keys).build(), BodyHandlers.ofString()).body();
      Assertions assertions = new Assertions(Assertions.keys(keySet), issuer, audience);
      String target = asked.getRequestURI().toString();
      String sub = assertions.allowed(assertion, asked.getRequestMethod(), target, body).path("sub").asText();
      told = Map.of("sub", sub, "assertion", assertion);
    } catch (Exception error) {
      status = 403;
      told = Map.of("refused", String.valueOf(error.getMessage()));
    }
    byte[] text = new ObjectMapper().writeValueAsBytes(told);
    asked.sendResponseHeaders(status, text.length);
    asked.getResponseBody().write(text);
    asked.close();
  }
}
