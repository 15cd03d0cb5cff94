import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;

/** Posts a picture with Java's client as it comes, which offers HTTP/2 with every request. */
public class JavaPost {
    public static void main(String[] arguments) throws Exception {
        URI address = URI.create(arguments[0]);
        byte[] picture = Files.readAllBytes(Path.of(arguments[1]));
        HttpClient client = HttpClient.newHttpClient();
        for (boolean expect : new boolean[] {false, true}) {
            post(client, address, expect, BodyPublishers.ofByteArray(picture));
            post(client, address, expect,  // of unknown length: chunked
                    BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(picture)));
        }
    }

    private static void post(HttpClient client, URI address, boolean expect, BodyPublisher body)
            throws Exception {
        HttpRequest request = HttpRequest.newBuilder(address)
                .header("Content-Type", "image/jpeg").expectContinue(expect).POST(body).build();
        var answer = client.send(request, BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body());
    }
}
