import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipInputStream;

/** Reads every entry of an archive with java.util.zip, by its directory ("seek") or from its start ("stream"). */
public class Reader {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    public static void main(String[] arguments) throws IOException {
        if (arguments[0].equals("seek")) {
            try (ZipFile archive = new ZipFile(arguments[1])) {
                for (ZipEntry entry : Collections.list(archive.entries())) {
                    try (InputStream data = archive.getInputStream(entry)) {
                        print(entry, data);
                    }
                }
            }
        } else {
            try (ZipInputStream archive = new ZipInputStream(new FileInputStream(arguments[1]))) {
                for (ZipEntry entry = archive.getNextEntry(); entry != null; entry = archive.getNextEntry()) {
                    print(entry, archive);
                }
            }
        }
    }

    private static void print(ZipEntry entry, InputStream data) throws IOException {
        CRC32 crc = new CRC32();
        long size = 0;
        byte[] buffer = new byte[1 << 16];
        for (int count = data.read(buffer); count >= 0; count = data.read(buffer)) {
            crc.update(buffer, 0, count);
            size += count;
        }
        long modified = entry.getLastModifiedTime().toMillis() / 1000;
        OUT.println(entry.getName() + "\t" + size + "\t" + Long.toHexString(crc.getValue()) + "\t" + modified);
    }
}
