import java.io.FileInputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.util.Properties;

/** Prints a properties file as Java reads it: key, tab, value in UTF-8. */
public class ReadProperties {
    public static void main(String[] args) throws Exception {
        Properties properties = new Properties();
        try (InputStream in = new FileInputStream(args[0])) {
            properties.load(in);
        }
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        properties.forEach((key, value) -> out.println(key + "\t" + value));
    }
}
