package kintsugi.nio2blob;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.util.HashMap;
import java.util.Iterator;
import java.util.Map;
import java.util.Properties;

import org.gaul.s3proxy.AccessGrant;
import org.gaul.s3proxy.BlobStoreLocator;
import org.gaul.s3proxy.BlobStores;
import org.gaul.s3proxy.S3ErrorCode;
import org.gaul.s3proxy.S3Proxy;
import org.gaul.s3proxy.S3ProxyException;
import org.gaul.s3proxy.blobstore.BlobStore;
import org.gaul.s3proxy.blobstore.domain.MultipartUpload;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import software.amazon.awssdk.services.s3.model.CopyObjectRequest;
import software.amazon.awssdk.services.s3.model.CreateMultipartUploadRequest;
import software.amazon.awssdk.services.s3.model.DeleteObjectRequest;
import software.amazon.awssdk.services.s3.model.DeleteObjectsRequest;
import software.amazon.awssdk.services.s3.model.GetObjectRequest;
import software.amazon.awssdk.services.s3.model.HeadBucketRequest;
import software.amazon.awssdk.services.s3.model.HeadObjectRequest;
import software.amazon.awssdk.services.s3.model.ListObjectsRequest;
import software.amazon.awssdk.services.s3.model.ListObjectsV2Request;
import software.amazon.awssdk.services.s3.model.ObjectIdentifier;
import software.amazon.awssdk.services.s3.model.PutObjectRequest;

/**
 * The store on the file system, to S3Proxy. It tells from the name of a store's class what the store can do, such as
 * conditional writes, and looks for {@code .nio2blob.} in it. A proxy is in the package of an interface that isn't
 * public.
 */
interface Nio2Store extends BlobStore {
}

/**
 * S3Proxy with a key for each purpose, and rights by prefix.
 *
 * <p>S3Proxy checks the signature of a request. It asks its BlobStoreLocator for the secret of the access key, and for
 * the store that the request then works on. Here that store refuses what the key may not do:
 *
 * <ol>
 * <li>Every call of S3Proxy goes through {@link Guarded#invoke}. A call that isn't named there is refused, so a new
 *     one in a later S3Proxy is refused too.
 * <li>The rights and keys are in the file of the system property {@code kintsugi.s3.keys}. It is read again when it
 *     has changed. A file that can't be read changes nothing.
 * <li>A key that could mean another place on the disk ({@code a/../b}) is refused to everybody.
 * </ol>
 *
 * <p>Janino compiles this file at the start, because a machine with only a Java runtime has no javac. Janino knows the
 * Java of before lambdas, and generics only as far as no cast depends on them.
 */
public class S3ProxyWithRights {
    private static final Logger log = LoggerFactory.getLogger("S3ProxyWithRights");
    // How S3Proxy calls what belongs to an upload in parts.
    private static final String UPLOAD_NOTE = ".s3proxy-mpu-stub-";
    private static final String UPLOAD_PART = ".mpus-";
    private static final int UUID_LETTERS = 36;

    public static void main(String[] arguments) throws Exception {
        Properties properties = read(new File(arguments[0]));
        BlobStore store = BlobStores.create(properties.getProperty("jclouds.provider"), properties);
        Keys keys = new Keys(new File(System.getProperty("kintsugi.s3.keys")), store);
        // Who shows no key at all works on the store of the builder, so that one allows nothing.
        final S3Proxy server = S3Proxy.Builder.fromProperties(properties).blobStore(nothing(store)).build();
        server.setBlobStoreLocator(keys);
        server.start();
        Runtime.getRuntime().addShutdownHook(new Thread() {
            public void run() {
                try {
                    server.stop();
                } catch (Exception error) {
                    log.warn("it does not stop in order: " + error.getMessage());
                }
            }
        });
    }

    static Properties read(File file) throws IOException {
        Properties properties = new Properties();
        InputStream stream = new FileInputStream(file);
        try {
            properties.load(stream);
        } finally {
            stream.close();
        }
        return properties;
    }

    static BlobStore nothing(BlobStore store) {
        return guard(store, "", new Properties(), "");
    }

    static BlobStore guard(BlobStore store, String purpose, Properties rights, String bucket) {
        return (BlobStore) Proxy.newProxyInstance(
            Nio2Store.class.getClassLoader(),
            new Class[] {Nio2Store.class},
            new Guarded(store, purpose, rights, bucket));
    }

    /** The keys that are valid now. */
    static class Keys implements BlobStoreLocator {
        private final File file;
        private final BlobStore store;
        private String version = "";
        private Map grants = new HashMap();

        Keys(File file, BlobStore store) throws IOException {
            this.file = file;
            this.store = store;
            String now = versionOfFile();
            this.grants = readGrants();
            this.version = now;
        }

        public AccessGrant locateBlobStore(String identity, String container, String blob) {
            return (AccessGrant) current().get(identity);
        }

        private synchronized Map current() {
            String now = versionOfFile();
            if (!now.equals(version)) {
                try {
                    grants = readGrants();
                    log.info("the keys have changed, " + grants.size() + " are valid");
                } catch (IOException error) {
                    log.error("the keys can't be read, those from before stay valid: " + error.getMessage());
                }
                version = now;
            }
            return grants;
        }

        private String versionOfFile() {
            return file.lastModified() + " " + file.length();
        }

        /** An entry {@code key.<access key>=<purpose> <secret>} for each key; see Python's s3proxy.keys_file. */
        private Map readGrants() throws IOException {
            Properties properties = read(file);
            Map found = new HashMap();
            Iterator names = properties.stringPropertyNames().iterator();
            while (names.hasNext()) {
                String name = (String) names.next();
                if (name.startsWith("key.")) {
                    String[] words = properties.getProperty(name).split(" ");
                    BlobStore guarded = guard(store, words[0], properties, properties.getProperty("bucket"));
                    found.put(name.substring("key.".length()), new AccessGrant(words[1], guarded));
                }
            }
            return found;
        }
    }

    /** The store as one purpose sees it. */
    static class Guarded implements InvocationHandler {
        private final BlobStore store;
        private final String purpose;
        private final Properties rights;
        private final String bucket;

        Guarded(BlobStore store, String purpose, Properties rights, String bucket) {
            this.store = store;
            this.purpose = purpose;
            this.rights = rights;
            this.bucket = bucket;
        }

        public Object invoke(Object proxy, Method method, Object[] arguments) throws Throwable {
            String name = method.getName();
            Object first = arguments == null ? null : arguments[0];
            if (!isHarmless(name, first)) {
                check(name, arguments, first);
            }
            try {
                return method.invoke(store, arguments);
            } catch (InvocationTargetException error) {
                throw error.getTargetException();
            }
        }

        /** Whether the call tells only what the server can do, or that the bucket exists. */
        private boolean isHarmless(String name, Object first) {
            return name.startsWith("supports")
                || name.equals("getMinimumMultipartPartSize")
                || name.equals("hashCode") || name.equals("equals") || name.equals("toString")
                || (name.equals("headBucket") && bucket.equals(((HeadBucketRequest) first).bucket()))
                || (name.equals("containerExists") && bucket.equals(first));
        }

        private void check(String name, Object[] arguments, Object first) {
            if (first instanceof GetObjectRequest) {
                GetObjectRequest request = (GetObjectRequest) first;
                require("read", request.bucket(), request.key());
            } else if (first instanceof HeadObjectRequest) {
                HeadObjectRequest request = (HeadObjectRequest) first;
                require("read", request.bucket(), request.key());
            } else if (name.equals("list") && first instanceof ListObjectsV2Request) {
                ListObjectsV2Request request = (ListObjectsV2Request) first;
                requireBelow("read", request.bucket(), request.prefix());
            } else if (name.equals("listV1") && first instanceof ListObjectsRequest) {
                ListObjectsRequest request = (ListObjectsRequest) first;
                requireBelow("read", request.bucket(), request.prefix());
            } else if (first instanceof PutObjectRequest) {
                PutObjectRequest request = (PutObjectRequest) first;
                require("write", request.bucket(), request.key());
            } else if (first instanceof CopyObjectRequest) {
                CopyObjectRequest request = (CopyObjectRequest) first;
                require("read", request.sourceBucket(), request.sourceKey());
                require("write", request.destinationBucket(), request.destinationKey());
            } else if (first instanceof CreateMultipartUploadRequest) {
                CreateMultipartUploadRequest request = (CreateMultipartUploadRequest) first;
                require("write", request.bucket(), request.key());
            } else if (first instanceof MultipartUpload && !name.equals("copyMultipartPart")) {
                MultipartUpload upload = (MultipartUpload) first;
                require("write", upload.containerName(), upload.blobName());
            } else if (first instanceof DeleteObjectRequest) {
                DeleteObjectRequest request = (DeleteObjectRequest) first;
                require("delete", request.bucket(), request.key());
            } else if (first instanceof DeleteObjectsRequest) {
                DeleteObjectsRequest request = (DeleteObjectsRequest) first;
                Iterator objects = request.delete().objects().iterator();
                while (objects.hasNext()) {
                    require("delete", request.bucket(), ((ObjectIdentifier) objects.next()).key());
                }
            } else if (arguments != null && arguments.length == 2 && arguments[1] instanceof String) {
                String container = (String) first;
                String key = (String) arguments[1];
                if (name.equals("blobExists") || name.equals("blobMetadataIfPresent")
                    || name.equals("getBlobAccess")) {
                    // S3Proxy asks so on the way of a write: is there such an object already?
                    if (!isAllowed("write", container, key)) {
                        require("read", container, key);
                    }
                } else if (name.equals("blobMetadata") || name.equals("getBlob")) {
                    require("read", container, key);
                } else if (name.equals("removeBlob")) {
                    require("delete", container, key);
                } else {
                    throw refusal(name, key);
                }
            } else {
                throw refusal(name, "");
            }
        }

        private void require(String right, String container, String key) {
            // S3Proxy notes an upload in parts in an object of its own, and lets no client name it.
            boolean note = key != null && key.startsWith(UPLOAD_NOTE) && bucket.equals(container);
            boolean ownPart = right.equals("read") && isAllowed("write", container, nameOfUpload(key));
            if (!(note && prefixes("write").length() > 0) && !ownPart) {
                requireBelow(right, container, key);
            }
        }

        /** The key that a part of an upload becomes a part of ({@code .mpus-<uuid>-<key>-<part>}); null for others. */
        private static String nameOfUpload(String key) {
            int start = UPLOAD_PART.length() + UUID_LETTERS + 1;
            int end = key == null ? -1 : key.lastIndexOf('-');
            return end > start && key.startsWith(UPLOAD_PART) ? key.substring(start, end) : null;
        }

        private String prefixes(String right) {
            return rights.getProperty("may." + purpose + "." + right, "");
        }

        private void requireBelow(String right, String container, String key) {
            if (!isAllowed(right, container, key)) {
                throw refusal(right, key);
            }
        }

        private boolean isAllowed(String right, String container, String key) {
            if (!bucket.equals(container) || key == null || !isPlain(key)) {
                return false;
            }
            String[] allowed = prefixes(right).split(" ");
            for (int i = 0; i < allowed.length; i++) {
                if (allowed[i].length() > 0 && key.startsWith(allowed[i])) {
                    return true;
                }
            }
            return false;
        }

        /** Whether the key is a path without {@code .}, {@code ..} and empty parts, as a directory on the disk has it. */
        private static boolean isPlain(String key) {
            String[] parts = key.split("/", -1);
            for (int i = 0; i < parts.length; i++) {
                boolean last = i == parts.length - 1;
                if (parts[i].equals(".") || parts[i].equals("..") || (parts[i].length() == 0 && !last)) {
                    return false;
                }
            }
            return true;
        }

        private RuntimeException refusal(String action, String key) {
            String who = purpose.length() == 0 ? "who shows no key" : purpose;
            // A key comes from the network: no letter of it may end the line, or make it long.
            String shown = String.valueOf(key).replaceAll("[^ -~]", "?");
            log.warn("refused to " + who + ": " + action + " " + shown.substring(0, Math.min(shown.length(), 200)));
            return new S3ProxyException(S3ErrorCode.ACCESS_DENIED);
        }
    }
}
