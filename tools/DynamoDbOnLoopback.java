import java.net.InetSocketAddress;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.handler.ContextHandler;
import org.eclipse.jetty.server.handler.ContextHandlerCollection;
import software.amazon.dynamodb.services.local.server.LocalDynamoDBRequestHandler;
import software.amazon.dynamodb.services.local.server.LocalDynamoDBServerHandler;

/**
 * DynamoDB Local on 127.0.0.1 only: its own ServerRunner always binds every interface, and sets up telemetry.
 *
 * <p>Arguments: the port, then the directory for its data file; without the second, data stay in memory.
 */
public final class DynamoDbOnLoopback {
    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[0]);
        boolean inMemory = args.length == 1;
        String dataDirectory = inMemory ? null : args[1];
        // sharedDb: every region and access key sees the same tables, as the tests' credentials are made up.
        boolean sharedDb = true;
        boolean delayTransientStatuses = false;
        var requests =
                new LocalDynamoDBRequestHandler(0, inMemory, dataDirectory, sharedDb, delayTransientStatuses);
        var server = new Server(new InetSocketAddress("127.0.0.1", port));
        server.setHandler(
                new ContextHandlerCollection(new ContextHandler(new LocalDynamoDBServerHandler(requests, null))));
        try {
            server.start();
        } catch (Exception failure) {
            failure.printStackTrace();
            System.exit(1); // SQLite's threads would keep a server that could not listen alive
        }
        server.join();
    }
}
