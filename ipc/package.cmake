# What is installed of libattn: both libraries, the headers, and how pkg-config and CMake find them.
include(CMakePackageConfigHelpers)
set(attn_cmake ${CMAKE_INSTALL_LIBDIR}/cmake/attn)

install(TARGETS attn attn_static EXPORT attn-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library NAMELINK_COMPONENT dev
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES attn.h ${CMAKE_CURRENT_SOURCE_DIR}/../core/attn_status.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)

# Both are relative to where they are, so that an installation may be moved.
file(RELATIVE_PATH ATTN_PC_TO_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" ATTN_PC_TO_PREFIX "${ATTN_PC_TO_PREFIX}")
configure_file(attn.pc.in attn.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/attn.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dev)

configure_package_config_file(attn-config.cmake.in attn-config.cmake INSTALL_DESTINATION ${attn_cmake})
write_basic_package_version_file(attn-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/attn-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/attn-config-version.cmake
  DESTINATION ${attn_cmake} COMPONENT dev)
install(EXPORT attn-targets NAMESPACE attn:: DESTINATION ${attn_cmake} COMPONENT dev)
